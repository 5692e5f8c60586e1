"""The parts of a GServerSock, each with the actions of one concern.

`base` has the parameters, the ledger and what connections share; `listener` one listening socket;
`renewing` the certificates, `admitting` who comes in. `ginsfsm.c_srv_sock` puts them together, and
has the machine.
"""
