"Soft-mask diffusion inpainting of vertebral lesions, and honest measurements of what it is good for."
from importlib.metadata import PackageNotFoundError, version as _version

try:
    __version__ = _version('medsoft_nb')
except PackageNotFoundError:
    __version__ = '0+unknown'  # a checkout that was not installed
