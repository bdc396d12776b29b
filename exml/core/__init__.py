"""Shapes, errors, samples, experts, registration, serialization, files and seeds, for every other room.

It imports nothing else of exml. Import from its modules, such as :mod:`exml.core.errors`.
"""
