import pg from 'pg'

/** Where a run can be held in the database: as it is claimed, before its call is noted, before its end is written, at the commit of that. */
type Step = 'claim' | 'call' | 'end' | 'commit'

/** At each step a run passes a lock that nobody holds, unless a test does. */
const triggers = `
create function hold_here() returns trigger language plpgsql as $$ begin
  perform pg_advisory_xact_lock_shared(hashtextextended(tg_argv[0] || coalesce(to_jsonb(new)->>'run_id', to_jsonb(new)->>'id'), 0));
  return new;
end $$;
create trigger hold_claim before update on runs for each row
  when (old.status = 'QUEUED' and new.status = 'RUNNING') execute function hold_here('claim');
create trigger hold_call before insert on model_call_attempts for each row execute function hold_here('call');
create trigger hold_end before update on runs for each row
  when (old.finished_at is null and new.finished_at is not null) execute function hold_here('end');
create constraint trigger hold_commit after insert on messages deferrable initially deferred for each row
  when (new.role = 'ASSISTANT') execute function hold_here('commit');
`

/** Keeps single runs from going on at a step of the test's choice. */
export class Holds {
  readonly #admin: pg.Client

  private constructor(admin: pg.Client) {
    this.#admin = admin
  }

  static async install(adminUrl: string): Promise<Holds> {
    const admin = new pg.Client({ connectionString: adminUrl })
    await admin.connect()
    await admin.query(triggers)
    return new Holds(admin)
  }

  async hold(step: Step, runId: string): Promise<void> {
    await this.#admin.query('select pg_advisory_lock(hashtextextended($1, 0))', [`${step}${runId}`])
  }

  /** How many are held right now. */
  async waiting(): Promise<number> {
    const { rows } = await this.#admin.query(
      "select count(*)::int as count from pg_locks where locktype = 'advisory' and not granted",
    )
    return rows[0].count
  }

  async release(): Promise<void> {
    await this.#admin.query('select pg_advisory_unlock_all()')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#admin.end()
  }
}
