import type { ReactNode } from 'react'

/** Drawn on a grid of 20, with the text's colour; always beside or inside something that has a name. */
const icon = (drawing: ReactNode) => () => (
  <svg
    viewBox="0 0 20 20"
    width="1.15em"
    height="1.15em"
    fill="none"
    stroke="currentColor"
    strokeWidth="1.6"
    strokeLinecap="round"
    strokeLinejoin="round"
    aria-hidden="true"
    className="shrink-0"
  >
    {drawing}
  </svg>
)

export const PlusIcon = icon(<path d="M10 4.500v11M4.5 10h11" />)
export const MenuIcon = icon(<path d="M3.5 6h13M3.5 10h13M3.5 14h8" />)
export const CloseIcon = icon(<path d="M5 5l10 10M15 5L5 15" />)
export const SendIcon = icon(<path d="M10 16V4.500M5 9.300l5-5 5 5" />)
export const SteerIcon = icon(<path d="M5 4.500v5a3 3 0 0 0 3 3h7M11.500 9l3.500 3.500-3.500 3.500" />)
export const StopIcon = icon(<rect x="6" y="6" width="8" height="8" rx="1.5" fill="currentColor" />)
export const ClipIcon = icon(
  <path d="M15.8 9.300l-5.900 5.900a3.700 3.700 0 0 1-5.200-5.200l6.300-6.300a2.500 2.500 0 0 1 3.500 3.500l-6.200 6.200a1.200 1.200 0 0 1-1.800-1.700l5.600-5.600" />,
)
export const FileIcon = icon(
  <path d="M11.500 3H6.500A1.500 1.500 0 0 0 5 4.500v11A1.500 1.500 0 0 0 6.500 17h7a1.500 1.500 0 0 0 1.500-1.500V6.500L11.500 3zM11.500 3v3.500H15" />,
)
export const CopyIcon = icon(
  <>
    <rect x="7" y="7" width="9" height="9" rx="2" />
    <path d="M13 7V5.500a1.5 1.5 0 0 0-1.5-1.500h-6A1.5 1.5 0 0 0 4 5.500v6A1.5 1.5 0 0 0 5.5 13H7" />
  </>,
)
export const CheckIcon = icon(<path d="M4.5 10.500l3.5 3.5 7.5-8" />)
export const ReadIcon = icon(<path d="M2.5 10.500l3.5 3.5 7-8M9.5 13.500l.5.5 7-8" />)
export const ClockIcon = icon(
  <>
    <circle cx="10" cy="10" r="6.5" />
    <path d="M10 6.500V10l2.3 1.5" />
  </>,
)
export const AlertIcon = icon(
  <>
    <circle cx="10" cy="10" r="6.8" />
    <path d="M10 6.800v3.900M10 13.200v.01" />
  </>,
)
export const PencilIcon = icon(
  <path d="M4 16l.8-3.200L13 4.600a1.4 1.4 0 0 1 2 0l.4.4a1.4 1.4 0 0 1 0 2L7.2 15.2 4 16z" />,
)
export const TrashIcon = icon(<path d="M4.5 6h11M8 6V4.500h4V6M6 6l.6 9.500h6.800L14 6" />)
export const ReloadIcon = icon(<path d="M15.5 10a5.5 5.5 0 1 1-1.7-4M15.5 3.500v3h-3" />)
export const CutIcon = icon(
  <path d="M3.5 12.500c2 0 2.5-1.5 3-2.500M10 3.500v2.200M6 4.800l1.2 1.600M14 4.800l-1.2 1.600M16.5 12.500c-2 0-2.5-1.5-3-2.500M3.5 16h13" />,
)
export const BoltIcon = icon(<path d="M11 3L5 11.200h4L8.5 17l6.5-8.500h-4.200L11 3z" />)
export const FoldIcon = icon(<path d="M6 8l4 4 4-4" />)
export const ToolIcon = icon(
  <path d="M12.300 4.200a3.600 3.600 0 0 0-3.500 4.900L4.300 13.600a1.500 1.500 0 0 0 2.100 2.100l4.500-4.500a3.600 3.600 0 0 0 4.700-4.400l-2.100 2.100-2.100-.3-.3-2.100 2.100-2.100a3.600 3.600 0 0 0-.9-.2z" />,
)
export const BackIcon = icon(<path d="M12 5l-5 5 5 5" />)
export const HistoryIcon = icon(
  <>
    <path d="M4 10a6 6 0 1 0 2-4.500M3.500 4.500V8H7" />
    <path d="M10 7v3l2 1.300" />
  </>,
)
export const ForwardIcon = icon(<path d="M8 5l5 5-5 5" />)
export const UndoIcon = icon(<path d="M4 8.500h8a3.750 3.750 0 0 1 0 7.500H8M7 5.200L3.700 8.500 7 11.800" />)
export const PeopleIcon = icon(
  <>
    <circle cx="7.5" cy="7" r="2.700" />
    <path d="M2.500 16c.3-3 2.300-4.600 5-4.600s4.700 1.600 5 4.600M12.800 4.600a2.700 2.700 0 0 1 0 4.900M14.500 11.800c1.800.6 2.800 2 3 4.200" />
  </>,
)
export const LockIcon = icon(
  <>
    <rect x="4.500" y="9" width="11" height="7.500" rx="1.800" />
    <path d="M7 9V6.500a3 3 0 0 1 6 0V9" />
  </>,
)
export const ChartIcon = icon(<path d="M3.500 16.500h13M6 13.500v-3M10 13.500v-9M14 13.500v-6" />)
export const DownIcon = icon(<path d="M10 4.500v11M5 10.700l5 5 5-5" />)

export const Mark = () => (
  <svg viewBox="0 0 32 32" width="28" height="28" aria-hidden="true" className="shrink-0">
    <rect width="32" height="32" rx="9" className="fill-kelp" />
    <g fill="none" className="stroke-on-kelp" strokeWidth="2.2" strokeLinecap="round">
      <path d="M16 5.500c2.6 3-2.6 5.4 0 8.6 1 1.3 1 2.6 0 4.4" />
      <path d="M16 18.500c-1.2 3.2-4.8 2.8-7.5 6.5" />
      <path d="M16 18.500c1.2 3.2 4.8 2.8 7.5 6.5" />
      <path d="M16 18.500v7.5" />
    </g>
  </svg>
)
