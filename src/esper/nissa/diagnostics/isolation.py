"""Whether an isolated seed and its host are apart: nothing may pass between them, either way.

```
host to seed   d L(host(x)) / d seed        the host's output does not depend on the seed
seed to host   d |r(h)|^2 / d host          the seed's residual on recorded features does not reach the host
```
Both are asked of autograd on a few items; a parameter that a graph does not reach counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def measure_reach(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm, 0-dim float32, of the gradient of a scalar with regard to parameters.

    Args:
        value: 0-dim; without a graph it reaches nothing. Its graph is kept.
        parameters: Those that need no gradient are left out.
    """
    asked = [parameter for parameter in parameters if parameter.requires_grad]
    nothing = torch.zeros((), device=value.device)
    if not (asked and value.requires_grad):
        return nothing
    # A parameter that is not reached gets None here, which the annotation of torch does not say.
    found: Sequence[Tensor | None] = torch.autograd.grad(value, asked, allow_unused=True, retain_graph=True)
    norms = [torch.linalg.vector_norm(each, dtype=torch.float32) for each in found if each is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else nothing
