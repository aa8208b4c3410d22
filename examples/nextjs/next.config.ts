import type { NextConfig } from 'next'

// It works without, too. So the package is loaded as it is, not bundled into each route, and a build has less to do.
const config: NextConfig = { serverExternalPackages: ['holdfast'] }

export default config
