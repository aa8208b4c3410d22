import type { Json, JsonObject } from '../core/json.ts'
import type { PushDevice, PushSender, PushText } from '../core/pushing.ts'

/**
 * What a notice says: of the event, in the language that the device was registered with (null: it named none). Nothing, or
 * a field that is missing, is the default. Of a title 60 characters are taken, of a body 180. Called for each notice, when
 * its time has come; where it throws, the default is taken.
 */
export type PushTexts = (
  event: string,
  locale: string | null,
  about: { sessionId: string; userId: string; tenantId: string; data: Json },
) => Partial<PushText> | null | undefined

export type PushOptions = {
  /** Notices to Expo's service: `expoPush()` of `holdfast/expo`. */
  expo?: PushSender
  /** Notices to browsers: `webPush({ vapid })` of `holdfast/web-push`. */
  web?: PushSender
  /** Title and body by event and language. See `PushTexts`; or a table by event. Defaults to English sentences. */
  texts?: PushTexts | Readonly<Record<string, Partial<PushText>>>
  /**
   * What becomes of a notice of which nobody knows whether the service took it, because the process that sent it died, or was
   * not answered. True: it is sent again, in the place of the first one. Defaults to false: it is not.
   */
  resend?: boolean
  /** When Expo is asked what became of what it took. 0–86,400,000. Defaults to 900,000 (15 minutes). */
  receiptsAfterMs?: number
  /**
   * Devices that the app keeps itself, asked for when a notice is due, beside those that are registered here. Where it
   * throws it is asked again.
   */
  devices?: (userId: string, ask: { tenantId: string }) => readonly PushDevice[] | Promise<readonly PushDevice[]>
  /** The service knows this device no more: the app should forget it, too. */
  forget?: (device: PushDevice, ask: { userId: string; tenantId: string }) => void | Promise<void>
}

/** The text of a table or function, which may be anything that an app writes. */
export function askText(
  texts: PushOptions['texts'],
  event: string,
  locale: string | null,
  about: { sessionId: string; userId: string; tenantId: string; data: JsonObject | null },
): Partial<PushText> | null | undefined {
  return typeof texts === 'function' ? texts(event, locale, about) : texts?.[event]
}
