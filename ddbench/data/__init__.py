"""Data sets: what there is, and how to load it."""

from ddbench.data.dataset import Dataset as Dataset
from ddbench.data.dataset import DatasetCard as DatasetCard
from ddbench.data.dataset import Split as Split
from ddbench.data.dataset import memory_split as memory_split
from ddbench.data.registry import dataset_names as dataset_names
from ddbench.data.registry import describe as describe
from ddbench.data.registry import load_dataset as load_dataset
