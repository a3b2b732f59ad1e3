const times = (count: number, part: (index: number) => string) =>
  Array.from({ length: count }, (_, index) => part(index)).join(' ')

const nested = (levels: number): string =>
  levels === 0 ? 'id' : `messages { edges { node { run { conversation { ${nested(levels - 1)} } } } } }`

/** Operations that would cost a server much and their sender little, each with what it is refused for. */
export const floods: [what: string, query: string, message: RegExp][] = [
  ['depth', `{ conversation(id: "x") { ${nested(3)} } }`, /17 levels deep; the limit is 12/],
  ['aliases at the root', `{ ${times(21, (i) => `a${i}: viewer { role }`)} }`, /21 root fields; the limit is 20/],
  ['aliases', `{ viewer { ${times(500, (i) => `a${i}: role`)} } }`, /501 fields; the limit is 500/],
  [
    'pages in pages',
    '{ conversations(first: 100) { edges { node { runs(first: 100) { edges { node { id status model createdAt startedAt finishedAt configVersion usage { inputTokens } } } } } } } }',
    /asks for up to 110301 fields/,
  ],
  ['tokens', `{ ${times(1_000, () => 'viewer { role }')} }`, /more than 2000 tokens/],
  ['directives', `{ viewer { role ${times(1_000, () => '@skip(if: false)')} } }`, /more than 2000 tokens/],
  [
    'fragments in circles',
    '{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }',
    /Cannot spread fragment "A" within itself/,
  ],
  [
    'fragments that double',
    `{ ...F0 } ${times(40, (i) => `fragment F${i} on Query { ...F${i + 1} ...F${i + 1} }`)} fragment F40 on Query { viewer { role } }`,
    /fields; the limit is 500/,
  ],
  [
    'introspection',
    `{ __schema { types { ${'fields { type { '.repeat(4)} name ${'} }'.repeat(4)} } } }`,
    /Maximum introspection depth exceeded/,
  ],
]
