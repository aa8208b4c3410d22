/** The files of a message: images as they are, sounds and films in a player, all else as links. */
import type { Part } from 'holdfast/client'
import { useState } from 'react'
import { sizeWords, useSize } from './file-sizes.ts'
import { type ShownFile, shownFilesOf } from './files.ts'
import { FileIcon } from './icons.tsx'

export function FileList({ parts }: { parts: readonly Part[] }) {
  const files = shownFilesOf(parts)
  if (files.length === 0) return null
  const isAlone = files.length === 1
  return (
    <ul className={isAlone ? 'files is-alone' : 'files'} aria-label={isAlone ? 'File' : `${files.length} files`}>
      {files.map((file, at) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: they are never moved, and two may be the same
        <li key={at}>
          <Shown file={file} />
        </li>
      ))}
    </ul>
  )
}

function Shown({ file }: { file: ShownFile }) {
  if (file.shows === 'image') return <Picture file={file} />
  return file.shows === null ? <Link file={file} /> : <Player file={file} shows={file.shows} />
}

const leads = { target: '_blank', rel: 'noopener noreferrer', referrerPolicy: 'no-referrer' } as const

/** Its place is as large before it is loaded as after, so that nothing moves. */
function Picture({ file: { url, name, place } }: { file: ShownFile }) {
  const image = <img src={url ?? ''} alt={name} width={320} height={240} loading="lazy" decoding="async" />
  // A browser opens no page from what is in a message.
  if (place !== 'here') return <span className="file-image">{image}</span>
  return (
    <a className="file-image" href={url ?? ''} {...leads}>
      {image}
    </a>
  )
}

/** Only how long it is and how large is loaded before somebody plays it. Its link is there for who wants to keep it. */
function Player({ file, shows }: { file: ShownFile; shows: 'audio' | 'video' }) {
  const [isBroken, setBroken] = useState(false)
  // What calls itself a film and is none can still be saved.
  if (isBroken) return <Link file={file} />
  const onError = () => setBroken(true)
  const about = { src: file.url ?? '', controls: true, preload: 'metadata', 'aria-label': file.name, onError }
  return (
    <div className={`file-player is-${shows}`}>
      {shows === 'audio' ? <audio {...about} /> : <video {...about} playsInline />}
      <Link file={file} />
    </div>
  )
}

function Link({ file: { url, name, place } }: { file: ShownFile }) {
  const size = useSize(place === 'here' ? url : null)
  const words = (
    <>
      <FileIcon />
      <bdi className="file-name">{name}</bdi>
      {size !== null && <span className="file-size">{sizeWords(size)}</span>}
      {place === 'elsewhere' && <span className="file-size">{new URL(url ?? '').host}</span>}
    </>
  )
  if (url === null) return <span className="file-link">{words}</span>
  return (
    <a className="file-link" href={url} {...(place === 'given' ? { download: name } : leads)}>
      {words}
    </a>
  )
}
