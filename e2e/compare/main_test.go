package compare

import (
	"flag"
)

var others = flag.Int("others", 0, "number of `upgrades` that TestOthers makes of each server; 0 skips it")
