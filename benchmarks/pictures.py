"""How do the peers import torchvision? They do so wherever it is installed, and beside a CPU torch it needs the cure."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

from torchvision_stubs import watch

watch()
