"""Many hosts of one architecture trained and measured as one program.

```
fleet       E hosts in this process                           FusedFleet
trainer     which hosts go together, what runs alone          FusedTrainer
training    one interval of a group, batch by batch           GroupTraining
measuring   validation and counterfactuals of a group         measure_group
stack       the hosts' segments as stacked modules            HostStack
calls       which rows run which seeds in a slot              SlotCalls
bank        weights and moments as flat rows                  ParameterBank
arena       the rows of all banks, clipped and stepped        UpdateArena
```
Host runs keep everything else: lifecycle, clocks, governor, ledger, events. Weights are copied into the stack
before an interval and back after it, so that between two intervals a host is an ordinary one.
"""

from esper.tolaria.fleet.fused.fleet import FusedFleet
from esper.tolaria.fleet.fused.trainer import FusedShare, FusedTrainer

__all__ = ["FusedFleet", "FusedShare", "FusedTrainer"]
