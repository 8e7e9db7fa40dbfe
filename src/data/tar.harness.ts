// Makes entries of tar archives for tests, wrong ones included.

export interface TarEntry {
  readonly name: string;
  readonly data?: Uint8Array;
  readonly type?: string;
  readonly link?: string;
  /** What the header says instead of the data's length. */
  readonly size?: string;
}

/** A ustar header and its data, whole blocks. */
export function tarEntry({ name, data = new Uint8Array(0), type = "0", link = "", size }: TarEntry): Buffer {
  const header = Buffer.alloc(512);
  header.write(name, 0, 100, "latin1");
  header.write("0000644\0", 100);
  header.write(`${size ?? data.length.toString(8).padStart(11, "0")}\0`, 124, "latin1");
  header.write(type, 156);
  header.write(link, 157);
  header.write("ustar\x0000", 257, "latin1");
  header.write("        ", 148);
  header.write(
    `${header
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, "0")}\0 `,
    148,
    "latin1",
  );
  return Buffer.concat([header, data, Buffer.alloc((512 - (data.length % 512)) % 512)]);
}
