import { newId } from '../../src/domain/ids.ts'
import { adminQuery } from './database-url.ts'
import type { Story } from './story.ts'

/** Has what is done after the insertion of a message that says `content` done, by the database's owner, when that is committed. */
export async function atCommit({ database }: Story, content: string, statement: string): Promise<void> {
  const name = `commit_${newId().replaceAll('-', '')}`
  await adminQuery(
    database.adminUrl,
    `create function ${name}() returns trigger language plpgsql security definer as $$ begin ${statement}; return null; end $$;
    create constraint trigger ${name} after insert on messages deferrable initially deferred
      for each row when (new.content = '${content}') execute function ${name}()`,
  )
}

/** Has the commit of a message that says `content` wait until that is let go of. */
export async function holdCommit(story: Story, content: string): Promise<() => Promise<void>> {
  const gate = `gate_${newId().replaceAll('-', '')}`
  await atCommit(
    story,
    content,
    `while not exists (select from pg_class where relname = '${gate}') loop perform pg_sleep(0.01); end loop`,
  )
  return () => adminQuery(story.database.adminUrl, `create table ${gate} ()`)
}
