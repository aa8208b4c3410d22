const { getDefaultConfig, mergeConfig } = require('@react-native/metro-config')
const { join } = require('node:path')

const native = join(__dirname, 'native.js')

// React Native's own configuration. What of React Native itself the bundle would hold is in native.js.
module.exports = mergeConfig(getDefaultConfig(__dirname), {
  resolver: {
    resolveRequest: (context, name, platform) =>
      name === 'react-native' || name === '@react-native-async-storage/async-storage'
        ? { type: 'sourceFile', filePath: native }
        : context.resolveRequest(context, name, platform),
  },
  serializer: { getModulesRunBeforeMainModule: () => [] },
})
