package http1

import ()

// Host is what every request names as its host, and most certificates are for. The admin listener answers
// to it as well.
const Host = "e2e.localhost"
