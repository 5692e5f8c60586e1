"""What `ginsfsm check` finds: the faults of gclasses, and what is legal but smells.

`collect` imports what is to be checked and finds its gclasses; the faults of tables and parameters
come to light there. `smells` looks at one machine, `family` at a gclass and those around it,
`usage` at what is declared and used nowhere. They read the compiled table and, for what that does
not say, the source (`source`). A comment can silence a smell (`silence`).
"""
