"""How do the peers import torchvision? They do wherever it is installed; beside a CPU torch it needs a cure first."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

from torchvision_stubs import watch

watch()
