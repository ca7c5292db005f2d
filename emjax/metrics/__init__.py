"""What is measured, one family a file.

`detection` compares lists of points (columns, particles) with the truth, `statistics` puts
intervals round the numbers. Nothing is imported here, so that the one costs nothing to who uses
the other.
"""
