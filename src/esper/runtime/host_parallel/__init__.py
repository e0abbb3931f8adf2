"""One large host on several ranks: each trains on its rows of every batch, and all grow it alike.

```
host_training   one process of it: run directory on rank 0, the same loop on the others
host_copies     what a host run asks of its copies: `tolaria.HostRanks` over a channel
  shares        who takes which rows
  sync_plan     gradients, faults and wishes of all ranks, once per step
  announcements decisions as numbers
  disagreement  where two ranks differ, and who
  agreed_stop   a signal to one rank is a signal to all
```
"""
