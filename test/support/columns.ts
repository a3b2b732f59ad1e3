import pg from 'pg'

/** Every table and column of the database in which the text occurs: as it is, in hexadecimal or in base64, also as bytes. */
export async function columnsWith(adminUrl: string, text: string): Promise<string[]> {
  const db = new pg.Client({ connectionString: adminUrl })
  await db.connect()
  const { rows: tables } = await db.query<{ name: string }>(
    `select format('%I.%I', table_schema, table_name) as name from information_schema.tables
     where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema') order by 1`,
  )
  const found: string[] = []
  for (const { name } of tables) {
    // As JSON, bytes are in hexadecimal.
    const { rows } = await db.query<{ column: string }>(
      `select distinct cell.key as column from ${name} as line, jsonb_each_text(to_jsonb(line)) as cell
       where exists (select from unnest($1::text[]) as form where position(lower(form) in lower(cell.value)) > 0) order by 1`,
      [formsOf(text)],
    )
    found.push(...rows.map(({ column }) => `${name.replace('public.', '')}.${column}`))
  }
  await db.end()
  return found
}

/** How the text may be written down. */
export function formsOf(text: string): string[] {
  // In base64 a text looks different by where in what was encoded it begins; its ends also depend on what is beside it.
  const encoded = [0, 1, 2].map((before) =>
    Buffer.from('.'.repeat(before) + text)
      .toString('base64')
      .slice(before === 0 ? 0 : 4, -4),
  )
  const urlSafe = encoded.map((form) => form.replaceAll('+', '-').replaceAll('/', '_'))
  const forms = [text, JSON.stringify(text).slice(1, -1), encodeURIComponent(text), ...encoded, ...urlSafe]
  return [...forms, ...forms.map((form) => Buffer.from(form).toString('hex'))]
}
