"""R copies of one module, each with weights of its own, computed as one program.

```
contract      what a stacked module takes and gives
  kinds       how a type of module is made known
    linear, norms, layers, blocks     the types that are
  build       from a module tree to its stacked function; what two modules must share
arrangement   where the rows are in an activation
rows          some rows taken out, put together, blended
```
"""

from esper.kasmina.stacking.arrangement import to_arrangement
from esper.kasmina.stacking.build import build_stacked, signature
from esper.kasmina.stacking.contract import StackArrangement, StackContext, Stacked, UnstackableError
from esper.kasmina.stacking.rows import RowPartition, blend_rows, join_stacked, take_rows

__all__ = [
    "RowPartition",
    "StackArrangement",
    "StackContext",
    "Stacked",
    "UnstackableError",
    "blend_rows",
    "build_stacked",
    "join_stacked",
    "signature",
    "take_rows",
    "to_arrangement",
]
