// As React Native's own core does.
import 'whatwg-fetch'
import * as client from 'holdfast/client'
import { HoldfastProvider } from 'holdfast/react'
import { createElement } from 'react'
import { create } from 'react-test-renderer'

/** The app's modules are loaded when it starts: what is native has to be there. */
globalThis.app = {
  client,
  get chat() {
    return require('./chat').chat
  },
  show(id) {
    const { ChatScreen } = require('./ChatScreen')
    return create(createElement(HoldfastProvider, { client: this.chat }, createElement(ChatScreen, { id })))
  },
}
