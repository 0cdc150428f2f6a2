"""Sets from and to elsewhere: tensors of anyone's own loop, `.pt` and `.npz` files, folders of images."""

from ddbench.transfer.exporting import FORMATS as FORMATS
from ddbench.transfer.exporting import export_set as export_set
from ddbench.transfer.importing import import_set as import_set
from ddbench.transfer.tensors import from_tensors as from_tensors

__all__ = ["FORMATS", "export_set", "from_tensors", "import_set"]
