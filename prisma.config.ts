// `prisma generate` asks for the schema engine, a download that it then does not run. Any executable satisfies it.
if (process.argv.includes('generate')) process.env['PRISMA_SCHEMA_ENGINE_BINARY'] ??= process.execPath

export default { schema: 'prisma/schema.prisma' }
