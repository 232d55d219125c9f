"""A planted fault, which AddressSanitizer must report: a descriptor of more rows than there are."""

import numpy as np

from sslspec_fast import _C

x = np.zeros(4096, np.float32)
_C.basis_random((x.ctypes.data, (4200, 1), (1, 1), 0, -1, x), 0, 1)
