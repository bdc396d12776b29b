"""What every room stands on: shapes, errors, samples, experts, registration, serialization, files and seeds.

It imports nothing else of exml. Import from its modules, such as :mod:`exml.core.errors`.
"""
