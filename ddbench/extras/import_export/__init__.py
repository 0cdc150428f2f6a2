"""Import and export of sets: `.pt` and `.npz` files, folders of images. For tensors see `ddbench.evaluation.from_tensors`."""

from ddbench.extras.import_export.exporting import FORMATS as FORMATS
from ddbench.extras.import_export.exporting import export_set as export_set
from ddbench.extras.import_export.importing import import_set as import_set

__all__ = ["FORMATS", "export_set", "import_set"]
