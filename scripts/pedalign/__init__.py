"""The library that the workflow's scripts share."""

import gc

# To import the libraries makes half a million objects and no garbage, to plan 500 runs as many: they are not looked
# through meanwhile. `errors.run` sets this back before a script works.
USUAL_GC = gc.get_threshold()
gc.set_threshold(1_000_000, *USUAL_GC[1:])
