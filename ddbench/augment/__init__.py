"""Augmentations on tensors: differentiable, batched, on the images' device, drawn from a CPU generator.

Each is `(images [n, C, H, H] float, generator) -> images of the same shape`. DSA and crops have draw and apply
apart, so that one draw serves two batches. `build_augmentation` makes one from a recipe's name and parameters.
"""

from ddbench.augment.crops import draw_crops as draw_crops
from ddbench.augment.crops import flip as flip
from ddbench.augment.crops import pad_crop as pad_crop
from ddbench.augment.crops import random_resized_crop as random_resized_crop
from ddbench.augment.crops import resized_crop as resized_crop
from ddbench.augment.crops import shift as shift
from ddbench.augment.dsa import DSA as DSA
from ddbench.augment.dsa import OPS as OPS
from ddbench.augment.dsa import Drawn as Drawn
from ddbench.augment.mixing import cutmix as cutmix
from ddbench.augment.mixing import mixup as mixup
from ddbench.augment.patches import shuffle_patches as shuffle_patches
from ddbench.augment.registry import Augmentation as Augmentation
from ddbench.augment.registry import build_augmentation as build_augmentation
from ddbench.augment.registry import build_mixing as build_mixing
