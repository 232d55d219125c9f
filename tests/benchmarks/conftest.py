"""The installed package lacks the benchmarks. They come from the checkout, which is last on the
path, so that the package stays the installed one.
"""

import sys

from ..support.source_files import ROOT

sys.path.append(str(ROOT))
