// Numbers as MIL text spells them: exact C hex floats out, decimals and hex floats in. No knowledge of dtypes.

const scratch = new DataView(new ArrayBuffer(8));

/**
 * Shortest exact C hex float: `0x1.8p+1`, `-0x0p+0`, `inf`, `nan`. Subnormal doubles are normalised (`0x1p-1074`), as
 * macOS prints them and unlike glibc.
 */
export function formatHexFloat(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (value === Number.POSITIVE_INFINITY) return "inf";
  if (value === Number.NEGATIVE_INFINITY) return "-inf";
  if (value === 0) return Object.is(value, -0) ? "-0x0p+0" : "0x0p+0";
  const subnormal = Math.abs(value) < 2 ** -1022;
  scratch.setFloat64(0, subnormal ? value * 2 ** 64 : value);
  const high = scratch.getUint32(0);
  const exponent = ((high >>> 20) & 0x7ff) - 1023 - (subnormal ? 64 : 0);
  const fraction = (high & 0xfffff).toString(16).padStart(5, "0") + scratch.getUint32(4).toString(16).padStart(8, "0");
  let length = fraction.length;
  while (length > 0 && fraction.charCodeAt(length - 1) === 48) length--;
  const sign = value < 0 ? "-" : "";
  const point = length === 0 ? "" : `.${fraction.slice(0, length)}`;
  return `${sign}0x1${point}p${exponent < 0 ? "" : "+"}${exponent}`;
}

/**
 * Value of a decimal, a hex float (its `p` exponent may be missing), `inf`, `infinity` or `nan`, each with an optional
 * sign; rounded once to the nearest double, ties to even. Undefined where `text` is none of these. A finite number too
 * large for a double gives an infinity.
 */
export function parseNumber(text: string): number | undefined {
  const first = text.charCodeAt(0);
  const start = first === 43 || first === 45 ? 1 : 0;
  if (text.length - start <= 8) {
    const word = text.slice(start).toLowerCase();
    if (word === "nan") return Number.NaN;
    if (word === "inf" || word === "infinity")
      return first === 45 ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
  }
  if (text.charCodeAt(start) === 48 && (text.charCodeAt(start + 1) | 32) === 120) {
    const magnitude = parseHex(text, start + 2);
    return magnitude !== undefined && first === 45 ? -magnitude : magnitude;
  }
  return isDecimal(text, start) ? Number(text) : undefined;
}

/** Index of the first character from `at` on that is not a decimal digit. */
function skipDigits(text: string, at: number): number {
  while (isDigit(text.charCodeAt(at))) at++;
  return at;
}

function isDigit(code: number): boolean {
  return code >= 48 && code <= 57;
}

function isDecimal(text: string, start: number): boolean {
  const point = skipDigits(text, start);
  let at = point;
  let digits = point - start;
  if (text.charCodeAt(at) === 46) {
    at = skipDigits(text, point + 1);
    digits += at - point - 1;
  }
  if (digits === 0) return false;
  if ((text.charCodeAt(at) | 32) !== 101) return at === text.length;
  return endsWithExponent(text, at + 1);
}

/** Whether the rest of `text` is an optional sign and digits. */
function endsWithExponent(text: string, at: number): boolean {
  const code = text.charCodeAt(at);
  if (code === 43 || code === 45) at++;
  const end = skipDigits(text, at);
  return end > at && end === text.length;
}

function hexDigit(code: number): number {
  if (isDigit(code)) return code - 48;
  const letter = code | 32;
  return letter >= 97 && letter <= 102 ? letter - 87 : -1;
}

/** Value of the hex float whose digits start at `at`, behind the `0x`. */
function parseHex(text: string, at: number): number | undefined {
  let digits = ""; // the first 16 from the first that is not 0: at least 61 significant bits
  let sticky = false; // a digit behind them is not 0
  let exponent = 0; // of the last digit in `digits`
  let seen = 0;
  let point = false;
  for (; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 46 && !point) {
      point = true;
      continue;
    }
    const digit = hexDigit(code);
    if (digit < 0) break;
    seen++;
    if (point) exponent -= 4;
    if (digits.length === 16) {
      exponent += 4;
      sticky ||= digit !== 0;
    } else if (digit !== 0 || digits.length > 0) {
      digits += text.charAt(at);
    }
  }
  if (seen === 0) return undefined;
  if (at < text.length) {
    if ((text.charCodeAt(at) | 32) !== 112 || !endsWithExponent(text, at + 1)) return undefined;
    exponent += Number(text.slice(at + 1));
  }
  if (digits === "") return 0;
  const significand = Number.parseInt(digits, 16);
  if (significand <= 2 ** 53 && !sticky) return scaleByPower(significand, exponent);
  return roundWide((BigInt(`0x${digits}`) << 1n) | (sticky ? 1n : 0n), exponent - 1);
}

/** `significand * 2^exponent`, rounded once; the significand is an integer up to 2^53. */
function scaleByPower(significand: number, exponent: number): number {
  if (exponent > 1023) return Number.POSITIVE_INFINITY;
  if (exponent >= -1022) return significand * 2 ** exponent;
  if (exponent < -2000) return 0;
  return significand * 2 ** -1000 * 2 ** (exponent + 1000); // only the second product can round
}

/** `significand * 2^exponent`, rounded once, for a significand of more than 53 bits. */
function roundWide(significand: bigint, exponent: number): number {
  const bits = significand.toString(2).length;
  const top = exponent + bits - 1; // exponent of the leading bit
  if (top > 1023) return Number.POSITIVE_INFINITY;
  const precision = Math.min(53, top + 1075); // bits left above 2^-1074
  if (precision < 0) return 0;
  const drop = BigInt(bits - precision);
  const kept = significand >> drop;
  const rest = significand - (kept << drop);
  const half = 1n << (drop - 1n);
  const up = rest > half || (rest === half && (kept & 1n) === 1n);
  return scaleByPower(Number(up ? kept + 1n : kept), exponent + Number(drop));
}
