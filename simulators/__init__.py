"""Differentiable physics of electron microscopy in JAX: from atoms to counts.

Conventions, and how to add to it: the README beside this file.
"""
