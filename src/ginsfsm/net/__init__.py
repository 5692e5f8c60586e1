"""What the gclasses of the network ask for, kept apart from their machines.

These modules know sockets, addresses and bytes. They import nothing of the core: no gobj, event
or loop passes through them, so each can be read and tested by itself.
"""
