"""Growth against its peers at equal FLOPs: tasks, arms, bills, and the queue that runs them.

```
waves     a family of 1-D signals, generated          bill      what growing in width costs, in FLOPs
network   the MLP that all arms share, its seeds      arms      which arms there are and what they need
tasks     data, sizes and settings of each task       settled   what tuning has decided, as committed
width     growing hidden layers in width (gromo)      policies  periodic growth
own_arm   one run of ours                             peer_arm  one run that grows in width
record    what a run has shown, as a row              jobs      which runs there are, and one of them
```
Started by `benchmarks/peer_study.py`. Nothing of the package is imported by esper.
"""
