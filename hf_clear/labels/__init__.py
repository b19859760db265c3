"""The labels of a data set: those that it has, the true ones, and the names of their classes."""
