import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'

/** A process of the bench's own that is spoken to. It ends when it is closed, and when this process ends. */
export type Child<To extends object, From extends { kind: string }> = {
  pid: number
  /** Sends `message`, if there is one, and resolves to the answer of that kind. Throws when the process ends first. */
  ask<Kind extends From['kind']>(kind: Kind, message?: To): Promise<Extract<From, { kind: Kind }>>
  close(): Promise<void>
}

export function startChild<To extends object, From extends { kind: string }>(file: string): Child<To, From> {
  const child: ChildProcess = fork(new URL(file, import.meta.url))
  const exited = once(child, 'exit')
  return {
    pid: child.pid ?? 0,
    ask<Kind extends From['kind']>(kind: Kind, message?: To) {
      return new Promise<Extract<From, { kind: Kind }>>((resolve, reject) => {
        const hear = (answer: From) => {
          if (answer.kind !== kind) return
          child.off('message', hear)
          resolve(answer as Extract<From, { kind: Kind }>)
        }
        child.on('message', hear)
        void exited.then(() => reject(new Error(`${file} ended.`)))
        if (message) child.send(message)
      })
    },
    async close() {
      if (child.connected) child.disconnect()
      await exited
    },
  }
}
