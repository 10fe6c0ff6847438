package upgrade

// SetProtocol makes this process a release that speaks a version of the link.
func SetProtocol(version string) { protocol = version }
