// What the API key may do.

/** The key's tenant and scopes, asked for once per key. */
export class Caller {
  #api;
  #asked = null;

  constructor(api) {
    this.#api = api;
  }

  /** `{key_id, tenant, scopes}`. Throws like `Api.call`. */
  async look() {
    this.#asked ??= this.#api.call("GET", "v1/keys/self");
    const asked = this.#asked;
    try {
      return await asked;
    } catch (error) {
      if (this.#asked === asked) this.#asked = null;
      throw error;
    }
  }

  /** True if the key has the scope `admin`; false also while Darkroom does not answer. */
  async isAdmin() {
    try {
      return (await this.look()).scopes.includes("admin");
    } catch {
      return false;
    }
  }

  /** Forgets the key, as when another one is used. */
  forget() {
    this.#asked = null;
  }
}
