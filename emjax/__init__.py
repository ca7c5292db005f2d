"""emjax: deep learning for electron microscopy, with differentiable simulators as the data source.

Importing this package is cheap and does not import jax; import the submodule that you need.
"""

__version__ = "0.1.0"
