"""Workers: what the parent and its worker processes share, below their gclasses.

The gclasses are `ginsfsm.c_workers.Workers` and `ginsfsm.c_worker.Worker` in the parent, and
`ginsfsm.c_supervised.Supervised` in each worker.
"""
