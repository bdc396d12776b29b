// What scrolls sideways can be reached by the keyboard, and the two sidebars have names.
for (const [selector, name] of [[".sidebar-drawer", "Pages"], [".toc-drawer", "On this page"]]) {
  document.querySelector(selector)?.setAttribute("aria-label", name);
}
const reachable = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const region of document.querySelectorAll("pre, .table-wrapper, div.math")) reachable.observe(region);
