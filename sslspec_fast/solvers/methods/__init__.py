"""How it is solved: one file per value of `method=`."""
