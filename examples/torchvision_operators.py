"""Lets `import timm` succeed where torchvision was built for another torch, such as a CPU build of it.

The wheel of torchvision on PyPI brings its operators for CUDA; beside a CPU build of torch the import ends in
"operator torchvision::nms does not exist". Declaring two operators is enough for whatever detects no boxes.
Where torchvision works as it is, nothing is done; a build of it for the CPU is the better remedy.
"""

import torch

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # held, or the declarations would go with it

try:
    import torchvision
except ModuleNotFoundError:  # nothing to repair; who needs it says so
    pass
except (ImportError, RuntimeError):
    for name in ("nms", "qnms"):
        LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401
