// What is native comes from the phone that the test has made (phone.ts).
const { createElement } = require('react')
const { AppState, AsyncStorage } = globalThis.phone

module.exports = {
  __esModule: true,
  default: AsyncStorage,
  AppState,
  Text: 'Text',
  TextInput: 'TextInput',
  FlatList: ({ data, keyExtractor, renderItem }) =>
    data.map((item) => createElement('Item', { key: keyExtractor(item) }, renderItem({ item }))),
}
