// Numbers as a person reads them; fractions become per cent here and nowhere before.

export const NOT_RECORDED = "not recorded";

export function isFraction(metricName) {
  return metricName.endsWith("accuracy");
}

export function formatNumber(value) {
  if (value === null || value === undefined) return "\u2013";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1e15 || (size < 1e-3 && size > 0)) return value.toExponential(2);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return value.toFixed(size < 0.01 ? 5 : size < 10 ? 3 : 2);
}

export function formatMetric(metricName, value) {
  if (typeof value !== "number") return formatNumber(value);
  return isFraction(metricName) ? `${(100 * value).toFixed(1)} %` : formatNumber(value);
}

export function formatSigned(value) {
  if (typeof value !== "number") return formatNumber(value);
  return (value > 0 ? "+" : value < 0 ? "\u2212" : "") + formatNumber(Math.abs(value));
}

export function formatCount(value) {
  if (typeof value !== "number") return "\u2013";
  if (value >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return value.toLocaleString("en");
}

export function formatTime(iso) {
  return iso ? iso.slice(0, 16).replace("T", " ") : "\u2013";
}

export function formatClock(seconds) {
  const date = new Date(1000 * seconds);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString().slice(11, 19);
}

export function formatAny(value) {
  if (Array.isArray(value)) return value.map(formatAny).join(value.some(Array.isArray) ? " / " : ", ");
  if (value !== null && typeof value === "object") {
    return Object.entries(value).map(([key, item]) => `${key} ${formatAny(item)}`).join(", ");
  }
  return typeof value === "number" ? formatNumber(value) : value === null ? "\u2013" : String(value);
}

// A number of an axis: as few digits as it needs.
export function formatTick(value) {
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-4)) return Number(value.toPrecision(4)).toExponential();
  return String(Number(value.toPrecision(6)));
}
