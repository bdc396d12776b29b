// What scrolls sideways can be reached by the keyboard; the two sidebars have names, and the search page a title.
for (const [selector, name] of [[".sidebar-drawer", "Pages"], [".toc-drawer", "On this page"]]) {
  document.querySelector(selector)?.setAttribute("aria-label", name);
}
const results = document.querySelector("#search-results");
if (results) results.before(Object.assign(document.createElement("h1"), { textContent: "Search" }));
const reachable = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const region of document.querySelectorAll("pre, .table-wrapper, div.math")) reachable.observe(region);
