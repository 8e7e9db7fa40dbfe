// Programs loaded at once in this process: the system takes about 120, so the one that was idle longest makes room for the next.

import { EngineError } from "../../core/errors.ts";

/** Something loaded that can be unloaded and loaded again. */
export interface Tenant {
  /** Programs that it holds. */
  readonly held: number;
  /** Unloads; false where it runs right now. */
  evict(): boolean;
}

/** Counts the programs of all engines of this thread. */
export class Budget {
  readonly limit: number;
  /** In the order of their last use. */
  readonly #tenants = new Set<Tenant>();
  #last: Tenant | undefined;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(limit: number) {
    this.limit = limit;
  }

  get held(): number {
    let held = 0;
    for (const tenant of this.#tenants) held += tenant.held;
    return held;
  }

  /** Notes that a tenant is used now. */
  touch(tenant: Tenant): void {
    if (tenant === this.#last) return;
    this.#last = tenant;
    this.#tenants.delete(tenant);
    this.#tenants.add(tenant);
  }

  /**
   * Makes room for `count` more programs of a tenant.
   * @throws {EngineError} where all others run.
   */
  reserve(tenant: Tenant, count: number): void {
    this.touch(tenant);
    if (count > this.limit) {
      throw new EngineError("ane", `the plan needs ${count} programs at once, the process may hold ${this.limit}`, {
        limit: this.limit,
        remedy: "cut it into fewer stages",
      });
    }
    for (const other of this.#tenants) {
      if (this.held + count <= this.limit) return;
      if (other !== tenant) other.evict();
    }
    if (this.held + count > this.limit) {
      throw new EngineError(
        "ane",
        `${this.held} programs are loaded and in use, ${this.limit} is all that a process may hold`,
        {
          limit: this.limit,
          remedy: "dispose programs, or run fewer at once",
        },
      );
    }
  }

  /** Unloads whatever is idle: the system has no place left, whoever took it. */
  relieve(): void {
    for (const tenant of this.#tenants) tenant.evict();
  }

  /** Loads one after the other: what is being loaded is not held yet, and would be overlooked. */
  inTurn<T>(load: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(load);
    this.#turn = result.catch(() => {});
    return result;
  }

  forget(tenant: Tenant): void {
    if (tenant === this.#last) this.#last = undefined;
    this.#tenants.delete(tenant);
  }
}
