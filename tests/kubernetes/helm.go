// Renders a chart as Helm's engine does, for tests on machines without Helm.
//
// Reads from standard input, as JSON, what templates see (Values, Chart, Release), the text of each
// template by its path, and the text of each other file by its path. Prints the rendered manifests as
// JSON, by the path of their template. Function by function it follows pkg/engine of Helm 3.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

type files map[string]string

func (f files) Get(name string) string { return f[name] }

type versions []string

func (v versions) Has(version string) bool {
	for _, each := range v {
		if each == version {
			return true
		}
	}
	return false
}

// toYAML writes a value by way of JSON, as Helm does, so that keys are sorted and numbers are plain.
func toYAML(value interface{}) (string, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return "", err
	}
	var plain interface{}
	if err := yaml.Unmarshal(text, &plain); err != nil {
		return "", err
	}
	var written bytes.Buffer
	encoder := yaml.NewEncoder(&written)
	encoder.SetIndent(2)
	if err := encoder.Encode(plain); err != nil {
		return "", err
	}
	return strings.TrimSuffix(written.String(), "\n"), nil
}

// fromYAML reads YAML with the types of JSON: in templates, all numbers of it are float64, as in Helm.
func fromYAML(text string, into interface{}) error {
	var plain interface{}
	if err := yaml.Unmarshal([]byte(text), &plain); err != nil {
		return err
	}
	written, err := json.Marshal(plain)
	if err != nil {
		return err
	}
	return json.Unmarshal(written, into)
}

func functions(t *template.Template) template.FuncMap {
	all := sprig.TxtFuncMap()
	delete(all, "env") // Helm removes both: charts may not read the environment
	delete(all, "expandenv")
	all["include"] = func(name string, data interface{}) (string, error) {
		var written strings.Builder
		err := t.ExecuteTemplate(&written, name, data)
		return written.String(), err
	}
	all["tpl"] = func(text string, data interface{}) (string, error) {
		parsed, err := template.Must(t.Clone()).New("tpl").Parse(text)
		if err != nil {
			return "", err
		}
		var written strings.Builder
		err = parsed.Execute(&written, data)
		return strings.ReplaceAll(written.String(), "<no value>", ""), err
	}
	all["required"] = func(message string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return value, errors.New(message)
		}
		return value, nil
	}
	all["lookup"] = func(...string) map[string]interface{} { return map[string]interface{}{} }
	all["toYaml"] = toYAML
	all["fromYaml"] = func(text string) (map[string]interface{}, error) {
		read := map[string]interface{}{}
		return read, fromYAML(text, &read)
	}
	all["fromYamlArray"] = func(text string) ([]interface{}, error) {
		read := []interface{}{}
		return read, fromYAML(text, &read)
	}
	all["fromJson"] = func(text string) (map[string]interface{}, error) {
		read := map[string]interface{}{}
		return read, json.Unmarshal([]byte(text), &read)
	}
	return all
}

func render() (map[string]string, error) {
	var chart struct {
		Values, Chart, Release map[string]interface{}
		Templates, Files       map[string]string
	}
	input := json.NewDecoder(os.Stdin)
	input.UseNumber() // as Helm reads values
	if err := input.Decode(&chart); err != nil {
		return nil, err
	}
	all := template.New("chart").Option("missingkey=zero")
	all.Funcs(functions(all))
	for name, text := range chart.Templates {
		if _, err := all.New(name).Parse(text); err != nil {
			return nil, err
		}
	}
	rendered := map[string]string{}
	for name := range chart.Templates {
		if strings.HasPrefix(path.Base(name), "_") {
			continue
		}
		var written strings.Builder
		data := map[string]interface{}{
			"Values":  chart.Values,
			"Chart":   chart.Chart,
			"Release": chart.Release,
			"Files":   files(chart.Files),
			"Capabilities": map[string]interface{}{
				"KubeVersion": map[string]string{"Version": "v1.37.0", "Major": "1", "Minor": "37"},
				"APIVersions": versions{"v1", "ray.io/v1"},
			},
			"Template": map[string]string{"Name": name, "BasePath": path.Dir(name)},
		}
		if err := all.ExecuteTemplate(&written, name, data); err != nil {
			return nil, err
		}
		// Helm does the same: text/template has no option by which a missing value is nothing.
		rendered[name] = strings.ReplaceAll(written.String(), "<no value>", "")
	}
	return rendered, nil
}

func main() {
	rendered, err := render()
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(rendered)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
