// node main.js pg|postgres: one driver's checks against the server that PGHOST, PGPORT, PGUSER and PGDATABASE name.

const suite = await import(`./suite_${process.argv[2]}.js`)
await suite.run()
console.log('all checks passed')
