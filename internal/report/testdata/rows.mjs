// Prints the rows of a Parquet file as JSON: {columns, rows}, values as a CSV file has them.
// usage: node rows.mjs MODULE FILE
import { readFileSync } from 'node:fs'
const [module, path] = process.argv.slice(2)
const { parquetMetadata, parquetReadObjects } = await import(module)
const file = Uint8Array.from(readFileSync(path)).buffer
const columns = parquetMetadata(file).schema.slice(1).map(c => c.name)
const text = v => v === null || v === undefined ? '' : typeof v === 'number' && !Number.isInteger(v) ? decimal(v) : String(v)
// Numbers below 1e-6 have an exponent in JavaScript, and none in the CSV file.
const decimal = v => {
  const [digits, zeros] = String(v).split('e-')
  return zeros ? '0.' + '0'.repeat(zeros - 1) + digits.replace('.', '') : digits
}
const rows = (await parquetReadObjects({ file })).map(r => columns.map(c => text(r[c])))
console.log(JSON.stringify({ columns, rows }))
