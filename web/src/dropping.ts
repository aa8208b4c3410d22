/** Files that are dropped or pasted. */
import { useEffect, useRef, useState } from 'react'

/** Answers whether some are held over the chat. Beside it a drop does nothing: the browser would leave the page for the file. */
export function useDrop(onFiles: (files: File[]) => void): boolean {
  const [isOver, setOver] = useState(false)
  const latest = useRef(onFiles)
  latest.current = onFiles
  useEffect(() => {
    const isOnChat = ({ target }: DragEvent) =>
      target instanceof Element && target.closest('main:not([inert])') !== null
    const over = (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes('Files')) return
      event.preventDefault()
      event.dataTransfer.dropEffect = isOnChat(event) ? 'copy' : 'none'
      setOver(isOnChat(event))
    }
    const leave = ({ relatedTarget }: DragEvent) => {
      if (relatedTarget === null) setOver(false)
    }
    const drop = (event: DragEvent) => {
      setOver(false)
      if (!event.dataTransfer?.types.includes('Files')) return
      event.preventDefault()
      const files = filesIn(event.dataTransfer)
      if (isOnChat(event) && files.length > 0) latest.current(files)
    }
    const control = new AbortController()
    const { signal } = control
    window.addEventListener('dragover', over, { signal })
    window.addEventListener('dragleave', leave, { signal })
    window.addEventListener('drop', drop, { signal })
    return () => control.abort()
  }, [])
  return isOver
}

/** Of a folder the browser gives something that cannot be read. */
function filesIn({ items }: DataTransfer): File[] {
  return [...items].flatMap((item) => {
    if (item.kind !== 'file' || item.webkitGetAsEntry()?.isDirectory) return []
    const file = item.getAsFile()
    return file ? [file] : []
  })
}

/** Programs for text and tables put a picture of what was copied beside it: then it is the text that is meant. */
export function pastedFiles(data: DataTransfer): File[] {
  const isText = data.types.includes('text/plain') && data.types.includes('text/html')
  return isText ? [] : filesIn(data)
}
