// What the API key may do.

/** The key's tenant and scopes, asked for once per key. */
export class Caller {
  #api;
  #asked = null;

  constructor(api) {
    this.#api = api;
  }

  /** `{key_id, tenant, scopes, grants, endpoints}`. Throws like `Api.call`. */
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

  /** True if the key has the scope `operator`; false also while Darkroom does not answer. */
  async isOperator() {
    try {
      return (await this.look()).grants.includes("operator");
    } catch {
      return false;
    }
  }

  /** True if the key is no operator's, and may see a part of the view of its tenant. */
  async hasAccount() {
    try {
      const { grants } = await this.look();
      const some = ["usage", "files", "tenant-admin"].some((each) => grants.includes(each));
      return some && !grants.includes("operator");
    } catch {
      return false;
    }
  }

  /** Forgets the key, as when another one is used. */
  forget() {
    this.#asked = null;
  }
}
