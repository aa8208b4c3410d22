/** What is written in place of a message. */
import { type KeyboardEvent, type RefObject, useEffect, useLayoutEffect, useRef } from 'react'

type EditorProps = {
  edited: string
  takesFocus: boolean
  isBusy: boolean
  hint: string
  onChange(edited: string): void
  onSave(): void
  /** Closes it, and what was written stays. */
  onPutAside(): void
  onCancel(): void
}

export function Editor({ edited, takesFocus, isBusy, hint, onChange, onSave, onPutAside, onCancel }: EditorProps) {
  const area = useRef<HTMLTextAreaElement>(null)
  const isEmpty = edited.trim() === ''
  useEffect(() => {
    if (!takesFocus) return
    area.current?.focus()
    area.current?.setSelectionRange(-1, -1)
  }, [takesFocus])
  useFit(area, edited)
  const save = () => {
    if (!isEmpty && !isBusy) onSave()
  }
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== 'Enter' || event.shiftKey || event.nativeEvent.isComposing) return
    event.preventDefault()
    save()
  }
  const onEscape = (event: KeyboardEvent) => {
    if (event.key !== 'Escape' || event.nativeEvent.isComposing) return
    event.preventDefault()
    if (!event.repeat) onPutAside()
  }
  return (
    <fieldset className="editor" onKeyDown={onEscape}>
      <textarea
        ref={area}
        rows={1}
        dir="auto"
        value={edited}
        aria-label="Edit message"
        enterKeyHint="done"
        onChange={(event) => onChange(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      <div className="editor-tools">
        <span className="editor-hint">{hint}</span>
        <button type="button" className="small-button" onClick={onCancel}>
          Cancel
        </button>
        <button type="button" className="small-button is-main" aria-disabled={isEmpty || isBusy} onClick={save}>
          Save
        </button>
      </div>
    </fieldset>
  )
}

/** As high as what is written in it, also where a phone is turned or a button takes some of its width. */
export function useFit(area: RefObject<HTMLTextAreaElement | null>, text: string): void {
  // biome-ignore lint/correctness/useExhaustiveDependencies: it grows with what is written
  useLayoutEffect(() => fit(area.current), [text])
  useEffect(() => {
    // In the next picture: what an observer changes at once it would have to observe again.
    const watcher = new ResizeObserver(() => requestAnimationFrame(() => fit(area.current)))
    if (area.current) watcher.observe(area.current)
    return () => watcher.disconnect()
  }, [area])
}

function fit(area: HTMLTextAreaElement | null): void {
  if (!area) return
  area.style.height = 'auto'
  area.style.height = `${area.scrollHeight}px`
}
